"""What a known-good state consists of, kept before anybody is exposed and proven again whenever somebody is to be."""
