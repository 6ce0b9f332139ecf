//! What is sent arrives, in order and once, and the end of all senders is an end.

use crate::account::queue::queue;

#[tokio::test]
async fn things_arrive_in_order_until_the_last_sender_is_gone() {
    let (sender, mut inbox) = queue(4);
    let other = sender.clone();
    for n in 0..3 {
        sender.send(n);
    }
    let mut batch = Vec::new();
    assert!(inbox.take(&mut batch).await);
    assert_eq!(batch, [0, 1, 2]);
    batch.clear();
    drop(sender);
    other.send(3);
    drop(other);
    inbox.rest().await;
    assert!(inbox.take(&mut batch).await, "what was sent before the end is taken first");
    assert_eq!(batch, [3]);
    batch.clear();
    assert!(!inbox.take(&mut batch).await && batch.is_empty());
}

#[tokio::test]
async fn who_sleeps_is_woken_by_the_next_thing_and_nothing_is_lost_between_batches() {
    let (sender, mut inbox) = queue(64);
    let taking = tokio::spawn(async move {
        let (mut all, mut batch) = (Vec::new(), Vec::new());
        while inbox.take(&mut batch).await {
            all.append(&mut batch);
            inbox.rest().await;
        }
        all
    });
    let senders: Vec<_> = (0..4)
        .map(|task| {
            let sender = sender.clone();
            tokio::spawn(async move {
                for n in 0..500 {
                    sender.send((task, n));
                    if n % 7 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
            })
        })
        .collect();
    drop(sender);
    for sender in senders {
        sender.await.unwrap();
    }
    let all = taking.await.unwrap();
    assert_eq!(all.len(), 2_000);
    for task in 0..4 {
        assert!(all.iter().filter(|(from, _)| *from == task).map(|(_, n)| *n).eq(0..500), "each one's in its order");
    }
}
