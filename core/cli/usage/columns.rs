//! Tables on the terminal: names to the left, figures to the right, as wide as what stands in them.

use std::io::{self, Write};

use serde_json::Value;

/// `left`: so many columns are names. The first line is the head.
pub fn write(out: &mut (dyn Write + Send), lines: &[Vec<String>], left: usize) -> io::Result<()> {
    let count = lines.first().map_or(0, Vec::len);
    let width = |at: usize| lines.iter().filter_map(|line| line.get(at)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|at| width(at).unwrap_or(0)).collect();
    for line in lines {
        let cells = line.iter().zip(&widths).enumerate().map(|(at, (cell, width))| match at < left {
            true => format!("{cell:<width$}"),
            false => format!("{cell:>width$}"),
        });
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// What moves the cursor of a terminal does not reach it.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect(),
        other => other.to_string(),
    }
}
