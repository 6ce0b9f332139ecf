//! Tests of this format alone; its goldens cross it with every other.

mod namespaces;
mod requests;
mod streams;
