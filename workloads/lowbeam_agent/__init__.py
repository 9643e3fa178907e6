"""What runs on every GPU node: reads all boards once a second and tells what they draw."""
