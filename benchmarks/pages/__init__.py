"""What writes pages and figures of docs/ from results, sources and compilers."""
