"""The demo: a small trained CNN that ships with the package, and real images to run it on."""
