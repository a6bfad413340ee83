"""All that knows DeepSpeed: the engine, its configuration, ranks, snapshots and resumption."""
