"""Files in and out: images, photographs, tables, weights, pretrained parts."""
