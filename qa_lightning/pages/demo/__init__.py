"""The page to ask a model in: `page` lays it out; the others answer, draw, bound and serve."""
