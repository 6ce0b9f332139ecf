//! Tests of this format alone; its goldens cross it with every other.

mod requests;
mod streams;
