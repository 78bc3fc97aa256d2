"""Time to quality: each record is one readable file, and the log that it leaves. README.md says how, and ranks them."""
