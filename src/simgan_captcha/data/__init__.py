"""Images in: fetched, checked, stored, decoded; what all images of a family share."""
