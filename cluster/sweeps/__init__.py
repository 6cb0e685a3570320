"""Many runs as one job: what to train, what of it is there already, and the rest on Ray Tune."""
