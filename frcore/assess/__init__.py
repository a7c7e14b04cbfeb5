"""What a run measures when it is asked by name: priors, degradation models, samples."""

MEASURED = ("psnr_rgb", "stlpips_vgg", "id_dlib")  # of a face that was made against its truth
