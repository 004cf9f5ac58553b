"""One file a table or figure of the thesis, each runnable by itself."""
