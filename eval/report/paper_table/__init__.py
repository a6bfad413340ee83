"""The paper's table for other models: its layout, published numbers, its sets as local files."""
