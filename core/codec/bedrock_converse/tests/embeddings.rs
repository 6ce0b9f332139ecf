//! Embeddings of two makers, told apart by the model's name and by the answer's shape.

use serde_json::json;

use super::*;
use crate::{error::Kind, model::EmbeddingInput};

fn asking(texts: &[&str]) -> EmbeddingRequest {
    let inputs = texts.iter().map(|text| EmbeddingInput::Text((*text).to_owned())).collect();
    EmbeddingRequest { inputs, dimensions: Some(256), ..EmbeddingRequest::default() }
}

fn body(request: &EmbeddingRequest, model: &str) -> Result<Value> {
    BedrockConverse.encode_embeddings(request, &Dialect::of(model)).map(|encoded| Value::Object(encoded.body))
}

#[test]
fn each_maker_is_asked_in_its_own_words() {
    let titan = body(&asking(&["a"]), "amazon.titan-embed-text-v2:0").expect("a body");
    assert_eq!(titan, json!({"inputText": "a", "dimensions": 256}));
    let two = body(&asking(&["a", "b"]), "amazon.titan-embed-text-v2:0").expect_err("one at a time");
    assert_eq!((two.kind, two.param.as_deref()), (Kind::Unsupported, Some("input")));
    let mut request = asking(&["a", "b"]);
    request.task = Some("RETRIEVAL_QUERY".into());
    let wanted = json!({"texts": ["a", "b"], "input_type": "search_query", "embedding_types": ["float"], "output_dimension": 256});
    assert_eq!(body(&request, "eu.cohere.embed-v4:0").expect("a body"), wanted);
    request.inputs = vec![EmbeddingInput::Tokens(vec![1])];
    assert_eq!(body(&request, "cohere.embed-english-v3").expect_err("tokens").kind, Kind::Unsupported);
}

#[test]
fn answers_of_both_shapes_are_read() {
    let read = |answer: Value| BedrockConverse.decode_embeddings_response(answer.to_string().as_bytes());
    let titan = read(json!({"embedding": [0.5, -1], "inputTextTokenCount": 3})).expect("a vector");
    assert_eq!((titan.vectors, titan.usage.and_then(|u| u.input_tokens)), (vec![vec![0.5, -1.0]], Some(3)));
    for answer in [json!({"embeddings": [[1], [2]], "id": "x"}), json!({"embeddings": {"float": [[1], [2]]}})] {
        assert_eq!(read(answer).expect("vectors").vectors, [[1.0], [2.0]]);
    }
    for odd in [
        json!({}),
        json!([]),
        json!({"embeddings": {"int8": [[1]]}}),
        json!({"embedding": ["x"]}),
        json!({"embeddings": 1}),
    ] {
        assert_eq!(read(odd.clone()).expect_err("odd").kind, Kind::Upstream, "{odd}");
    }
}
