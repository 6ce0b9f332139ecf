//! `[cache]`: where kept answers lie, by the store, and how much of them.

use super::*;

const STAGE: &str = "[[stages]]\nuse = \"builtin/cache\"\n";

fn cache(toml: &str) -> crate::config::Cache {
    Case::new(toml).config().cache.clone()
}

#[test]
fn what_lies_behind_memory_follows_the_store_unless_it_is_said() {
    let sled = cache(STAGE);
    assert_eq!((sled.persist, sled.max_size, sled.listed), (Persist::Files, 1 << 30, true));
    assert!(!cache("").listed, "nobody asks for it");
    let memory = cache(&format!("[store]\nkind = \"memory\"\n{STAGE}"));
    assert_eq!((memory.persist, memory.embeddings), (Persist::Memory, false));
    let said = cache(&format!("[cache]\npersist = \"memory\"\nembeddings = true\n{STAGE}"));
    assert_eq!((said.persist, said.embeddings), (Persist::Memory, true));
    let bound = cache(&format!("[cache]\npersist = \"files\"\nmax_size = \"8MiB\"\n{STAGE}"));
    assert_eq!((bound.persist, bound.max_size), (Persist::Files, 8 << 20));
}

#[test]
fn what_cannot_be_is_told_at_its_line() {
    for (toml, place, word) in [
        ("[cache]\npersist = \"redis\"\n", "gateway.toml:2:", "store.kind = \"redis\""),
        ("[store]\nkind = \"memory\"\n[cache]\npersist = \"files\"\n", "gateway.toml:4:", "data directory"),
        ("[cache]\npersist = \"disk\"\n", "gateway.toml:2:", "cache.persist"),
        ("[cache]\nmax_size = \"2MiB\"\n", "gateway.toml:2:", "four times"),
        ("[cache]\nmax_answer = \"32MiB\"\nmax_size = \"64MiB\"\n", "gateway.toml:3:", "four times"),
        ("[cache]\nmax_size = 0\n", "gateway.toml:2:", "more than zero"),
    ] {
        let problem = problem(&format!("{toml}{STAGE}"));
        assert!(problem.starts_with(place) && problem.contains(word), "{toml}: {problem}");
    }
}
