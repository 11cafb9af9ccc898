use super::*;

#[test]
fn a_token_never_appears_in_debug_output() {
    let secret = "tattletale";
    let endpoint = with_tokens(1, &[secret]);
    let pool = Pool::new(Arc::new(endpoint.clone()));
    let short = Token::new(b"tattletale".to_vec()).unwrap_err();
    let bytes = format!("{:?}", token(secret).bytes());
    for text in [
        format!("{endpoint:?}"),
        format!("{endpoint:#?}"),
        format!("{:?}", endpoint.credentials),
        format!("{:?}", token(secret)),
        format!("{pool:?}"),
        format!("{short:?} {short}"),
    ] {
        assert!(!text.contains(secret), "{text}");
        assert!(!text.contains(&bytes), "{text}");
        assert!(!text.contains(bytes.trim_matches(['[', ']'])), "{text}");
        assert!(
            !text.contains("116"),
            "a byte of the secret is shown: {text}"
        );
    }
}
