"""Graphics: the plots, maps and figures of a report."""
