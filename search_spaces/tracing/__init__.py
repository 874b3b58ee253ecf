"""How `search_spaces.trace` works: record a module with torch.fx at two batch sizes, then translate every call."""
