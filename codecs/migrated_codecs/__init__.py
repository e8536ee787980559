"""The codecs that come with `migrated`, one module a format; the entry points `migrated.codecs` name them."""
