"""Read sources in any supported format, with any column names, and turn their rows into validated examples."""
