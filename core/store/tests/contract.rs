//! What every backend must do, whoever it is: one suite, run on each. A further backend is a module in the macro.

use super::*;

/// Runs a contract test on every backend.
macro_rules! contract {
    ($($name:ident),* $(,)?) => {
        mod on_memory { $(#[tokio::test] async fn $name() { super::case::$name(&super::Memory::default()).await; })* }
        mod on_sled { $(#[tokio::test] async fn $name() {
            let dir = tempfile::tempdir().unwrap();
            let store = super::sled_at(&dir.path().join("data")).await;
            super::case::$name(&*store).await;
            store.close().await.unwrap();
        })* }
        mod on_redis { $(#[tokio::test] async fn $name() {
            let Some(server) = super::server::Server::start(&[]) else { return };
            let dir = tempfile::tempdir().unwrap();
            let store = super::redis::store_of(super::redis::config_of(&server), &dir.path().join("data")).await.unwrap();
            super::case::$name(&*store).await;
            store.close().await.unwrap();
        })* }
    };
}

contract!(
    reads_what_was_written,
    removes_rows,
    keeps_tables_apart,
    scans_in_key_order_by_pages,
    scans_a_prefix_only,
    refuses_large_rows_and_writes_nothing_of_the_batch,
    soft_writes_are_read_back,
    many_writers_at_once_lose_nothing,
    scans_beside_writers_see_whole_batches,
    the_last_change_of_a_row_in_a_batch_counts,
    takes_any_bytes_as_keys_and_values,
    writes_only_on_rows_as_expected,
    leases_of_many_takers_never_overlap,
    exports_when_it_keeps_something,
    refuses_everything_after_close,
);

mod case {
    use super::*;

    pub async fn reads_what_was_written(store: &dyn Store) {
        assert_eq!(store.read(Table::Keys, b"a").await.unwrap(), None);
        store.write(vec![Op::put(Table::Keys, "a", "1"), Op::put(Table::Keys, "b", "2")]).await.unwrap();
        store.write(vec![Op::put(Table::Keys, "a", "3")]).await.unwrap();
        assert_eq!(store.read(Table::Keys, b"a").await.unwrap().as_deref(), Some(&b"3"[..]));
        assert_eq!(store.read(Table::Keys, b"b").await.unwrap().as_deref(), Some(&b"2"[..]));
    }

    pub async fn removes_rows(store: &dyn Store) {
        store.write(vec![Op::put(Table::Keys, "a", "1")]).await.unwrap();
        store.write(vec![Op::remove(Table::Keys, "a"), Op::remove(Table::Keys, "never")]).await.unwrap();
        assert_eq!(store.read(Table::Keys, b"a").await.unwrap(), None);
    }

    pub async fn keeps_tables_apart(store: &dyn Store) {
        store.write(vec![Op::put(Table::Keys, "x", "1"), Op::put(Table::Meta, "x", "2")]).await.unwrap();
        assert_eq!(store.read(Table::Keys, b"x").await.unwrap().as_deref(), Some(&b"1"[..]));
        let rows = store.scan(Table::Keys, b"", None, 10).await.unwrap();
        assert_eq!(rows, [(b"x".to_vec(), b"1".to_vec())]);
    }

    pub async fn scans_in_key_order_by_pages(store: &dyn Store) {
        for n in (0..25).rev() {
            store.write_soft(vec![Op::put(Table::Keys, format!("k{n:02}"), n.to_string())]).await.unwrap();
        }
        let mut seen = Vec::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = store.scan(Table::Keys, b"k", after.as_deref(), 10).await.unwrap();
            assert!(page.len() <= 10);
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            seen.extend(page.into_iter().map(|(key, _)| String::from_utf8(key).unwrap()));
        }
        assert_eq!(seen, (0..25).map(|n| format!("k{n:02}")).collect::<Vec<_>>());
    }

    pub async fn scans_a_prefix_only(store: &dyn Store) {
        let names = ["a", "b", "b1", "b2", "c"];
        store.write(names.iter().map(|n| Op::put(Table::Keys, *n, "")).collect()).await.unwrap();
        let keys = |rows: Vec<Row>| rows.into_iter().map(|(k, _)| String::from_utf8(k).unwrap()).collect::<Vec<_>>();
        assert_eq!(keys(store.scan(Table::Keys, b"b", None, 10).await.unwrap()), ["b", "b1", "b2"]);
        assert_eq!(keys(store.scan(Table::Keys, b"b", Some(b"b1"), 10).await.unwrap()), ["b2"]);
        // An `after` before the prefix must not widen the scan.
        assert_eq!(keys(store.scan(Table::Keys, b"b", Some(b"a"), 10).await.unwrap()), ["b", "b1", "b2"]);
        assert!(store.scan(Table::Keys, b"b", Some(b"c"), 10).await.unwrap().is_empty());
    }

    pub async fn refuses_large_rows_and_writes_nothing_of_the_batch(store: &dyn Store) {
        let batch = vec![Op::put(Table::Keys, "small", "1"), Op::put(Table::Keys, "large", vec![0; MAX_ROW])];
        let refused = store.write(batch).await;
        assert!(matches!(refused, Err(StoreError::TooLarge { .. })), "{refused:?}");
        assert_eq!(store.read(Table::Keys, b"small").await.unwrap(), None);
        store.write(vec![Op::put(Table::Keys, "ok", vec![7; MAX_ROW - 3])]).await.unwrap();
        assert_eq!(store.read(Table::Keys, b"ok").await.unwrap().map(|v| v.len()), Some(MAX_ROW - 3));
    }

    pub async fn soft_writes_are_read_back(store: &dyn Store) {
        store.write_soft(vec![Op::put(Table::Keys, "s", "1")]).await.unwrap();
        assert!(store.read(Table::Keys, b"s").await.unwrap().is_some());
    }

    pub async fn many_writers_at_once_lose_nothing(store: &dyn Store) {
        let writes = (0..200).map(|n| store.write(vec![Op::put(Table::Keys, format!("{n:03}"), "x")]));
        for result in futures_util::future::join_all(writes).await {
            result.unwrap();
        }
        assert_eq!(store.scan(Table::Keys, b"", None, 1000).await.unwrap().len(), 200);
    }

    pub async fn scans_beside_writers_see_whole_batches(store: &dyn Store) {
        let pair = |n: usize| ["a", "b"].map(|key| Op::put(Table::Keys, key, n.to_string())).to_vec();
        store.write(pair(0)).await.unwrap();
        let writing = async {
            for n in 1..50 {
                store.write(pair(n)).await.unwrap();
            }
        };
        let reading = async {
            let mut last = 0;
            for _ in 0..50 {
                let rows = store.scan(Table::Keys, b"", None, 10).await.unwrap();
                assert_eq!(rows.len(), 2);
                let seen: usize = String::from_utf8(rows[0].1.clone()).unwrap().parse().unwrap();
                assert!(seen >= last, "never an older value than the one seen before");
                last = seen;
            }
        };
        futures_util::future::join(writing, reading).await;
        assert_eq!(store.read(Table::Keys, b"b").await.unwrap().as_deref(), Some(&b"49"[..]));
    }

    pub async fn the_last_change_of_a_row_in_a_batch_counts(store: &dyn Store) {
        let batch = vec![Op::put(Table::Keys, "a", "1"), Op::remove(Table::Keys, "a"), Op::put(Table::Keys, "a", "2")];
        store.write(batch).await.unwrap();
        store.write(vec![Op::put(Table::Keys, "b", "1"), Op::remove(Table::Keys, "b")]).await.unwrap();
        store.write(Vec::new()).await.unwrap();
        let rows = store.scan(Table::Keys, b"", None, 10).await.unwrap();
        assert_eq!(rows, [(b"a".to_vec(), b"2".to_vec())]);
    }

    pub async fn takes_any_bytes_as_keys_and_values(store: &dyn Store) {
        let keys: [&[u8]; 5] = [b"", &[0], &[0, 0], &[0xff], &[0xff, 0xff, 0]];
        store.write(keys.iter().map(|k| Op::put(Table::Keys, *k, k.repeat(3))).collect()).await.unwrap();
        let rows = store.scan(Table::Keys, b"", None, 10).await.unwrap();
        assert_eq!(rows, keys.map(|k| (k.to_vec(), k.repeat(3))));
        let rows = store.scan(Table::Keys, &[0xff], None, 10).await.unwrap();
        assert_eq!(rows.len(), 2);
        assert!(store.scan(Table::Keys, b"", None, 0).await.unwrap().is_empty());
    }

    pub async fn writes_only_on_rows_as_expected(store: &dyn Store) {
        let batch = |value: &str| vec![Op::put(Table::Keys, "a", value), Op::put(Table::Keys, "beside", value)];
        assert!(store.write_if(vec![Op::remove(Table::Keys, "a")], batch("1")).await.unwrap(), "it is absent");
        assert!(!store.write_if(vec![Op::remove(Table::Keys, "a")], batch("2")).await.unwrap());
        assert!(!store.write_if(vec![Op::put(Table::Keys, "a", "x")], batch("2")).await.unwrap());
        let both = vec![Op::put(Table::Keys, "a", "1"), Op::put(Table::Keys, "beside", "x")];
        assert!(!store.write_if(both, batch("2")).await.unwrap(), "every row must be as expected");
        assert_eq!(store.read(Table::Keys, b"beside").await.unwrap().as_deref(), Some(&b"1"[..]));
        assert!(store.write_if(vec![Op::put(Table::Keys, "a", "1")], batch("2")).await.unwrap());
        assert_eq!(store.read(Table::Keys, b"beside").await.unwrap().as_deref(), Some(&b"2"[..]));
    }

    /// How blocks of a budget are taken by several gateways: each block once, and never more than there is.
    pub async fn leases_of_many_takers_never_overlap(store: &dyn Store) {
        const BLOCK: u64 = 7;
        const LIMIT: u64 = 250;
        let taker = async || {
            let mut mine = Vec::new();
            loop {
                let row = store.read(Table::Keys, b"taken").await.unwrap();
                let taken = row.as_deref().map_or(0, |v| std::str::from_utf8(v).unwrap().parse::<u64>().unwrap());
                let block = BLOCK.min(LIMIT - taken);
                if block == 0 {
                    return mine;
                }
                let expected = Op { table: Table::Keys, key: b"taken".to_vec(), value: row };
                let change = Op::put(Table::Keys, "taken", (taken + block).to_string());
                if store.write_if(vec![expected], vec![change]).await.unwrap() {
                    mine.extend(taken..taken + block);
                }
            }
        };
        let takers = (0..8).map(|_| taker());
        let mut all: Vec<u64> = futures_util::future::join_all(takers).await.concat();
        all.sort_unstable();
        assert_eq!(all, (0..LIMIT).collect::<Vec<_>>());
    }

    pub async fn exports_when_it_keeps_something(store: &dyn Store) {
        store.write(vec![Op::put(Table::Keys, "a", "1")]).await.unwrap();
        match store.export(None).await {
            Ok(done) => assert!(store.directory().is_some() && done.path.exists() && done.rows == 1),
            Err(e) => assert!(store.directory().is_none() && e.to_string().contains("keeps nothing"), "{e}"),
        }
    }

    pub async fn refuses_everything_after_close(store: &dyn Store) {
        store.close().await.unwrap();
        store.close().await.unwrap();
        assert!(matches!(store.read(Table::Keys, b"a").await, Err(StoreError::Closed)));
        assert!(matches!(store.write(vec![Op::put(Table::Keys, "a", "1")]).await, Err(StoreError::Closed)));
        assert!(matches!(store.scan(Table::Keys, b"", None, 1).await, Err(StoreError::Closed)));
    }
}
