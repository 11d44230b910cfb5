"""What results look like: tables, pictures, pages."""
