"""The pictures of a merge as SVG text, and its curves in TensorBoard; imports the record."""
