"""What the report says: a file for each topic, and the page that they make up."""
