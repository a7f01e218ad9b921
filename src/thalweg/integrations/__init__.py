"""Callbacks for the trainers of other libraries, so that recipes work in them."""
