//! What a user copies: quickstart, client code.
