"""Statistics: what other speakers, other seeds and another choice would change."""
