"""The compiled loops over raw bit patterns; imported by the engine, the delta file and the
inspection."""
