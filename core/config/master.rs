//! Reading a master key from where the configuration says it is: a file, a variable, or what a program prints (a cloud's key
//! service decrypts it, say). The program gets no input, a bounded time and a bounded output, and no shell.

use std::{
    fs,
    io::Read,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::{Master, env};

impl Master {
    /// As gateway.toml and `--to` write it.
    pub fn parse(words: &[String], root: &std::path::Path) -> Result<Master, String> {
        let example = "\"file:PATH\", \"env:NAME\" or [\"cmd:PROGRAM\", \"ARGUMENT\", …]";
        let [first, more @ ..] = words else { return Err(format!("is empty: write {example}")) };
        let form = first.split_once(':').filter(|(_, rest)| !rest.trim().is_empty());
        match form {
            Some(("cmd", program)) if more.is_empty() => {
                Ok(Master::Command(program.split_whitespace().map(str::to_owned).collect()))
            }
            Some(("cmd", program)) => Ok(Master::Command([&[program.trim().to_owned()], more].concat())),
            Some(("file", path)) if more.is_empty() => Ok(Master::File(root.join(path))),
            Some(("env", name)) if more.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') => {
                Ok(Master::Env(name.to_owned()))
            }
            _ => Err(format!("must say where the master key is, not hold it: {example}")),
        }
    }

    /// Waits for the program. The error says what to look at, and holds nothing of what was read.
    pub fn read(&self) -> Result<Zeroizing<[u8; 32]>, String> {
        let (whence, text) = match self {
            Master::File(path) => {
                let text =
                    fs::read_to_string(path).map_err(|e| format!("the file {} cannot be read: {e}", path.display()));
                (format!("the file {}", path.display()), text?)
            }
            Master::Env(name) => {
                let text = env::var(name).ok_or_else(|| format!("environment variable {name} is not set"))?;
                (format!("environment variable {name}"), text)
            }
            Master::Command(words) => {
                let program = words.first().map(String::as_str).unwrap_or_default();
                let text = run(program, words.get(1..).unwrap_or_default());
                (format!("what {program} prints"), text.map_err(|why| format!("{program} {why}"))?)
            }
        };
        let text = Zeroizing::new(text);
        key(text.trim()).ok_or_else(|| format!("{whence} is not a master key: 64 hex digits, or 32 bytes in base64"))
    }
}

fn key(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let mut key = Zeroizing::new([0; 32]);
    let bytes = if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        Zeroizing::new(text.as_bytes().chunks_exact(2).map(pair).collect::<Option<Vec<u8>>>()?)
    } else {
        Zeroizing::new(STANDARD.decode(text).ok()?)
    };
    (bytes.len() == key.len()).then(|| key.copy_from_slice(&bytes)).map(|()| key)
}

/// What it prints. Its errors are its own: they go where the gateway's go.
fn run(program: &str, arguments: &[String]) -> Result<String, String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|e| format!("cannot be started: {e}"))?;
    let out = child.stdout.take();
    // A program that prints without end, or leaves its output to another one, is not waited for.
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        let read = out.map(|out| out.take(MOST_OUTPUT).read_to_end(&mut text));
        read.is_some_and(|read| read.is_ok()).then_some(text)
    });
    let started = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if started.elapsed() < PATIENCE => thread::park_timeout(LOOK),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("did not end within {} s", PATIENCE.as_secs()));
            }
            Err(e) => return Err(format!("cannot be waited for: {e}")),
        }
    };
    if !status.success() {
        return Err(format!("failed ({status})"));
    }
    while !reader.is_finished() && started.elapsed() < PATIENCE {
        thread::park_timeout(LOOK);
    }
    if !reader.is_finished() {
        return Err("keeps its output open".to_owned());
    }
    let text = reader.join().ok().flatten().ok_or("printed nothing that could be read")?;
    String::from_utf8(text).map_err(|_| "printed something that is no text".to_owned())
}

const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(10);
const MOST_OUTPUT: u64 = 4 << 10;
