//! What can be told of a text by itself: its tokens, its language, whether it matches a pattern or a schema, where it can
//! be cut. Pure and bounded: texts come from callers, so whatever is computed of one ends in a time that its length sets.

pub mod cut;
pub mod language;
pub mod pattern;
pub mod schema;
pub mod tokens;

pub use pattern::Pattern;
pub use schema::Schema;

#[cfg(test)]
mod tests;
