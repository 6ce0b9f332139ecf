//! The codec alone: what the goldens cannot show, because it needs a canonical request of another family, an event order
//! of another family, or a wire detail.

mod answers;
mod corpus;
mod errors;
mod lists;
mod requests;
mod streams;
