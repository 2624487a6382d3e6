"""The benchmark suite: our server and its peers, each alone on one core, with the load generator on the other."""
