"""What ``img2shape doctor`` looks at. Checks are pure functions of facts; ``examine`` gathers the
facts and asks each of them."""
