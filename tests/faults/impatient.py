"""``img2shape`` whose groups of workers make way for a larger one after half a second."""

from cluster.cli.app import main
from cluster.training import ray_workers

if __name__ == "__main__":
    ray_workers.GROWTH_SECONDS = 0.5
    main()
