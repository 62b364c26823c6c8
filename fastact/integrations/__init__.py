"""fastact inside other people's compilers and libraries."""
