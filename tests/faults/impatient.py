"""``img2shape`` whose groups of workers make way for a larger one after half a second."""

from cluster import ray_workers
from cluster.cli import main

if __name__ == "__main__":
    ray_workers.GROWTH_SECONDS = 0.5
    main()
