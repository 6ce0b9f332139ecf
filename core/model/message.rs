//! One turn of a conversation.

use super::{Extra, Part};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    System,
    /// OpenAI's newer word for System; the wire keeps the difference.
    Developer,
    User,
    Assistant,
    /// A turn that holds tool results only.
    Tool,
}

/// System turns stand in the list where the caller put them; a leading run of them is "the system prompt".
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    pub role: Role,
    pub parts: Vec<Part>,
    pub name: Option<String>,
    pub extra: Extra,
}

impl Message {
    pub fn new(role: Role, parts: Vec<Part>) -> Self {
        Message { role, parts, name: None, extra: Extra::default() }
    }

    pub fn text(role: Role, text: impl Into<String>) -> Self {
        Message::new(role, vec![Part::text(text)])
    }

    /// All visible text, parts joined by a newline.
    pub fn joined_text(&self) -> String {
        let mut out = String::new();
        for part in &self.parts {
            if let Part::Text(t) = part {
                if !out.is_empty() {
                    out.push('\n');
                }
                out.push_str(&t.text);
            }
        }
        out
    }
}
