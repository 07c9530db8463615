"""The page to ask a model in: `page` puts it together, from `answers`, `view`, `examples`, `limits` and `server`."""
