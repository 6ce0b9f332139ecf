use std::path::Path;

use super::*;
use crate::{config::StoreKind, store::Memory};

async fn sled(path: &Path) -> Arc<dyn Store> {
    store::open(&config::Store { kind: StoreKind::Sled, path: path.join("data") }).await.unwrap()
}

fn named(path: &Path) -> config::Secrets {
    config::Secrets { master: Some(Master::File(path.to_owned())), ..config::Secrets::default() }
}

fn key(byte: u8) -> String {
    format!("{byte:02x}").repeat(32)
}

fn code(error: &Error) -> String {
    error.code().to_owned()
}

#[tokio::test]
async fn a_ring_opens_again_with_its_own_master_key_and_with_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = sled(dir.path()).await;
    let usual = config::Secrets::default();
    let ring = Keyring::open(&store, &usual).await.unwrap();
    let (root, newest) = (ring.root(), ring.newest("x"));
    assert_ne!(*root, [0; 32]);
    let file = dir.path().join("data/master.key");
    let text = std::fs::read_to_string(&file).unwrap();
    assert_ne!(store::hex::encode(&*root), text.trim(), "the master key seals nothing itself");
    let again = Keyring::open(&store, &usual).await.unwrap();
    assert_eq!((*again.root(), again.newest("x")), (*root, newest));
    assert_eq!(*again.secret_for("a"), *ring.secret_for("a"));
    assert_ne!(*again.secret_for("a"), *ring.secret_for("b"));
    let before = store.scan(Table::Meta, b"", None, 100).await.unwrap();
    for (wrong, told) in [(Some(key(0xab)), "not the one"), (Some("zz".to_owned()), "64 hex"), (None, "missing")] {
        match wrong {
            Some(wrong) => std::fs::write(&file, wrong).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        let refused = Keyring::open(&store, &usual).await.err().unwrap();
        assert!(refused.message.contains(told), "{}", refused.message);
        assert_eq!(store.scan(Table::Meta, b"", None, 100).await.unwrap(), before, "nothing was changed");
    }
    std::fs::write(&file, text).unwrap();
    assert_eq!(*Keyring::open(&store, &usual).await.unwrap().root(), *root);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_directory_from_before_keeps_what_its_master_key_hashed() {
    for moved in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store = sled(dir.path()).await;
        let old = store.directory().unwrap().master_key(true).unwrap();
        store.write(vec![Op::put(Table::Meta, store::MASTER_CHECK, check(&old))]).await.unwrap();
        std::fs::write(dir.path().join("new.key"), key(7)).unwrap();
        let config = if moved { named(&dir.path().join("new.key")) } else { config::Secrets::default() };
        let ring = Keyring::open(&store, &config).await.unwrap();
        assert_eq!(*ring.root(), *old, "hashes and seals from before stay good");
        // From here on the named one opens it, and the file's own does nothing.
        let own = Keyring::open(&store, &config::Secrets::default()).await;
        assert_eq!(own.is_ok(), !moved);
        let beside = std::fs::read_to_string(dir.path().join("data/keyring")).unwrap();
        let master = if moved { key(7) } else { store::hex::encode(&*old) };
        assert_eq!(*root_of(&master, Some(&beside)).unwrap(), *old);
        assert!(root_of(&key(9), Some(&beside)).is_none());
        assert_eq!(*root_of(&key(9), None).unwrap(), [9; 32], "without a ring the master key is the root");
        store.close().await.unwrap();
    }
    // A foreign directory is not taken over.
    let dir = tempfile::tempdir().unwrap();
    let store = sled(dir.path()).await;
    store.directory().unwrap().master_key(true).unwrap();
    let foreign = check(&Key::new([1; 32]));
    store.write(vec![Op::put(Table::Meta, store::MASTER_CHECK, foreign)]).await.unwrap();
    assert_eq!(code(&Keyring::open(&store, &config::Secrets::default()).await.err().unwrap()), "wrong_master_key");
    assert!(store.read(Table::Meta, RING).await.unwrap().is_none());
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_rotation_leaves_a_key_that_works_at_every_step() {
    let dir = tempfile::tempdir().unwrap();
    let store = sled(dir.path()).await;
    let usual = config::Secrets::default();
    let ring = Keyring::open(&store, &usual).await.unwrap();
    let (root, before) = (ring.root(), ring.newest("x"));
    let file = dir.path().join("data/master.key");
    let old = std::fs::read_to_string(&file).unwrap();
    let nothing = |_| async { Ok((Vec::new(), Vec::new())) };
    ring.rotate(Next::Own, nothing).await.unwrap();
    let new = std::fs::read_to_string(&file).unwrap();
    assert_ne!(old, new);
    assert_eq!((*ring.root(), ring.former_masters()), (*root, 0));
    let after = ring.newest("x");
    assert!(after.0 > before.0 && after.1 != before.1, "what is sealed from now on has another key");
    assert_eq!(*ring.numbered(before.0, "x").await.unwrap().unwrap(), *before.1, "and what was sealed can be read");
    assert_eq!(*Keyring::open(&store, &usual).await.unwrap().root(), *root);
    std::fs::write(&file, &old).unwrap();
    assert_eq!(code(&Keyring::open(&store, &usual).await.err().unwrap()), "wrong_master_key", "the former one is gone");
    std::fs::write(&file, &new).unwrap();
    // To another place: both open it until the end is said.
    let next = dir.path().join("next.key");
    assert!(ring.rotate(Next::From(Master::File(next.clone())), nothing).await.is_err(), "there is none");
    std::fs::write(&next, new.trim()).unwrap();
    let same = ring.rotate(Next::From(Master::File(next.clone())), nothing).await.unwrap_err();
    assert!(same.message.contains("in use already"), "{}", same.message);
    std::fs::write(&next, key(3)).unwrap();
    ring.rotate(Next::From(Master::File(next.clone())), nothing).await.unwrap();
    assert_eq!(ring.former_masters(), 1);
    for config in [&usual, &named(&next)] {
        let opened = Keyring::open(&store, config).await.unwrap();
        assert_eq!((*opened.root(), opened.former_masters()), (*root, 1));
        ring.accepts(config).await.unwrap();
    }
    // A rotation that was killed here can be begun again.
    let killed = Keyring::open(&store, &usual).await.unwrap();
    std::fs::write(&next, key(4)).unwrap();
    killed.rotate(Next::From(Master::File(next.clone())), nothing).await.unwrap();
    killed.finish(&named(&next)).await.unwrap();
    assert_eq!(*Keyring::open(&store, &named(&next)).await.unwrap().root(), *root);
    assert!(Keyring::open(&store, &usual).await.is_err() && killed.accepts(&usual).await.is_err());
    // An end that would lock everything up is refused.
    std::fs::write(&next, key(5)).unwrap();
    assert_eq!(code(&killed.finish(&named(&next)).await.unwrap_err()), "wrong_master_key");
    store.close().await.unwrap();
}

#[tokio::test]
async fn the_steps_of_a_rotation_are_whole_on_their_own() {
    // As a kill would leave them: the row with both, then the file, then the row with one.
    let dir = tempfile::tempdir().unwrap();
    let store = sled(dir.path()).await;
    let usual = config::Secrets::default();
    let root = Keyring::open(&store, &usual).await.unwrap().root();
    let file = dir.path().join("data/master.key");
    let old = Key::new(store::hex::decode(std::fs::read_to_string(&file).unwrap().trim()).unwrap());
    let new = Key::new([9; 32]);
    let held = store.read(Table::Meta, RING).await.unwrap().unwrap();
    let keys = Ring::parse(&held).unwrap().unwrap(&old).unwrap();
    let both = Ring::wrap(&[&old, &new], &keys).unwrap().row();
    store.write(vec![Op::put(Table::Meta, RING, both)]).await.unwrap();
    assert_eq!(*Keyring::open(&store, &usual).await.unwrap().root(), *root);
    store.directory().unwrap().replace_master_key(&new).unwrap();
    let opened = Keyring::open(&store, &usual).await.unwrap();
    assert_eq!((*opened.root(), opened.former_masters()), (*root, 1));
    opened.finish(&usual).await.unwrap();
    assert_eq!(Keyring::open(&store, &usual).await.unwrap().former_masters(), 0);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_damaged_row_is_refused_and_two_gateways_make_one_ring() {
    let store: Arc<dyn Store> = Arc::new(Memory::default());
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("m"), key(2)).unwrap();
    let config = named(&dir.path().join("m"));
    let (one, two) = tokio::join!(Keyring::open(&store, &config), Keyring::open(&store, &config));
    assert_eq!(*one.unwrap().root(), *two.unwrap().root());
    let whole = store.read(Table::Meta, RING).await.unwrap().unwrap();
    for at in 0..whole.len() {
        let mut row = whole.clone();
        row[at] ^= 1;
        store.write(vec![Op::put(Table::Meta, RING, row)]).await.unwrap();
        if let Ok(ring) = Keyring::open(&store, &config).await {
            panic!("byte {at} opened {}", ring.newest("").0);
        }
    }
}

#[test]
fn a_master_key_comes_from_a_file_a_variable_or_a_program() {
    let dir = tempfile::tempdir().unwrap();
    let parse = |words: &[&str]| Master::parse(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>(), dir.path());
    std::fs::write(dir.path().join("hex"), format!("{}\n", key(0xab))).unwrap();
    std::fs::write(dir.path().join("base64"), "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=").unwrap();
    for words in [vec!["file:hex"], vec!["file:base64"]] {
        assert_eq!(*parse(&words).unwrap().read().unwrap(), [0xab; 32]);
    }
    let shown = format!("echo {}", key(0xab));
    for words in [
        vec!["cmd:sh", "-c", shown.as_str()],
        vec!["cmd:/bin/echo abababababababababababababababababababababababababababababababab"],
    ] {
        assert_eq!(*parse(&words).unwrap().read().unwrap(), [0xab; 32]);
    }
    for (words, told) in [
        (vec!["cmd:/nowhere/kms"], "cannot be started"),
        (vec!["cmd:false"], "failed"),
        (vec!["cmd:true"], "not a master key"),
        (vec!["cmd:sh", "-c", "while :; do echo aaaaaaaaaaaaaaaaaaaaaaaaa; done"], "failed"),
        (vec!["file:none"], "cannot be read"),
        (vec!["env:PORTCULLIS_NO_SUCH_VARIABLE"], "is not set"),
    ] {
        let error = parse(&words).unwrap().read().unwrap_err();
        assert!(error.contains(told) && !error.contains("aaaaaaaa"), "{words:?}: {error}");
    }
    for odd in [vec![], vec![""], vec!["abab"], vec!["env:"], vec!["env:A B"], vec!["file:a", "b"], vec!["cmd:"]] {
        assert!(parse(&odd).is_err(), "{odd:?}");
    }
}
