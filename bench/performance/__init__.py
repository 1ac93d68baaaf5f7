"""What `bench.serving` and `bench.soak` share: models, servers, load, and the report in ``docs/performance.md``."""
