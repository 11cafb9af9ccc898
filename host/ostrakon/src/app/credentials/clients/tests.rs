use ostrakon_network::http::refusals;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use ostrakon_test_support::certificates::{Authority, Issued};
use ostrakon_volumes::secrets::Secrets;
use ostrakon_volumes::volume::Files;

use super::*;

const ONE: &str = "one-0123456789abcdef";
const TWO: &str = "two-0123456789abcdef";

fn values(entries: &[(&str, &str)]) -> Values {
    let entries = entries.iter();
    let owned = entries.map(|(name, value)| ((*name).to_owned(), Bytes::from((*value).to_owned())));
    let secrets = Secrets::new(Ok(Files::new(owned.collect())));
    Values::of::<ClientsPort>(&secrets)
}

fn make(entries: &[(&str, &str)], before: Option<&Clients>) -> Result<Clients, String> {
    let port = ClientsPort::new(false);
    let made = port.make(&values(entries), before, SystemTime::now());
    made.map_err(|error| error.to_string())
}

fn pair(issued: &Issued) -> Vec<(&str, &str)> {
    vec![
        ("tls.crt", &issued.certificate),
        ("tls.key", &issued.key),
        ("another", "guest's"),
    ]
}

#[track_caller]
fn check_refused(entries: &[(&str, &str)], before: Option<&Clients>, said: &str) {
    let error = make(entries, before).expect_err(said);
    assert!(error.contains(said), "{said}: {error}");
}

#[test]
fn what_cannot_be_used_together_is_refused_with_what_to_do() {
    let authority = Authority::new("a");
    let (issued, other) = (authority.issue_here(), authority.issue_here());
    let certificate = ("tls.crt", &*issued.certificate);
    check_refused(&[certificate], None, "no `tls.key`: put it there");
    check_refused(&[("tls.key", &issued.key)], None, "no `tls.crt`: put it");
    let authorities = ("client-ca.crt", &*authority.pem);
    check_refused(&[authorities], None, "has `client-ca.crt` and no `tls.crt`");
    let key = ("tls.key", &*other.key);
    check_refused(&[certificate, key], None, "not that of the certificate");
    let expired = authority.issue_for(&["localhost"], -60, -30, &[]);
    check_refused(&pair(&expired), None, "renew it");
    let with = |more: &[(&'static str, &'static str)]| [&pair(&issued), more].concat();
    check_refused(&with(&[("client-ca.crt", "?")]), None, "of an authority");
    check_refused(&with(&[("client-tokens", "\n")]), None, "has no token");
    check_refused(&with(&[("client-token", ONE)]), None, "client-tokens");
    check_refused(&with(&[("client-auth", "none")]), None, "`all` nor `any`");
}

/// Whatever happens to the Secret, traffic never changes from TLS to plain text, and clients that
/// were refused are not admitted.
#[test]
fn a_running_shard_never_asks_for_less() {
    let authority = Authority::new("a");
    let issued = authority.issue_here();
    let tls = make(&pair(&issued), None).unwrap();
    let tokens = [("client-tokens", ONE)];
    let with_tokens = make(&tokens, None).unwrap();
    let authorities = [("client-ca.crt", &*authority.pem)];
    let certificates = make(&[pair(&issued), authorities.to_vec()].concat(), None).unwrap();
    let both = make(&[pair(&issued), tokens.to_vec()].concat(), None).unwrap();

    check_refused(&[], Some(&tls), "does not go from HTTPS to plain HTTP");
    check_refused(&tokens, Some(&tls), "does not go from HTTPS to plain HTTP");
    check_refused(&tokens, Some(&both), "from HTTPS to plain HTTP");
    check_refused(&[], Some(&with_tokens), "does not open to everybody");
    check_refused(&pair(&issued), Some(&both), "does not open to everybody");
    check_refused(&pair(&issued), Some(&certificates), "open to everybody");

    // Changing from one kind of credentials to the other, or to both, is allowed.
    make(
        &[pair(&issued), tokens.to_vec()].concat(),
        Some(&certificates),
    )
    .unwrap();
    let certificates = [pair(&issued), authorities.to_vec()].concat();
    make(&certificates, Some(&both)).unwrap();
    make(&pair(&issued), None).unwrap();
    make(&tokens, Some(&make(&[], None).unwrap())).unwrap();
}

#[test]
fn https_only_is_plain_at_no_time() {
    let port = ClientsPort::new(true);
    let make = |entries: &[(&str, &str)]| port.make(&values(entries), None, SystemTime::now());
    let error = make(&[("client-tokens", ONE)]).unwrap_err();
    assert!(matches!(error, ClientsError::HttpsOnly), "{error}");
    let issued = Authority::new("a").issue_here();
    make(&pair(&issued)).unwrap();
}

fn asked(clients: &Clients, token: Option<&str>, caller: &Caller) -> (Result<(), Refusal>, bool) {
    let mut request = Request::get("/");
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let mut head = request.body(()).unwrap().into_parts().0;
    let admitted = clients.admit(&mut head, caller);
    (admitted, head.headers.contains_key(AUTHORIZATION))
}

#[test]
fn a_token_is_demanded_where_there_are_any_and_told_to_no_guest() {
    let plain = Caller::plain(([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 2).into());
    let open = make(&[], None).unwrap();
    // The token may be meant for the guest.
    assert_eq!(asked(&open, Some(ONE), &plain), (Ok(()), true));
    let two_lines = format!("{ONE}\n{TWO}");
    let tokens = make(&[("client-tokens", &two_lines)], None).unwrap();
    for (token, admitted) in [
        (None, Err(refusals::NO_TOKEN)),
        (Some("three-0123456789ab"), Err(refusals::WRONG_TOKEN)),
        (Some(ONE), Ok(())),
        (Some(TWO), Ok(())),
    ] {
        assert_eq!(
            asked(&tokens, token, &plain),
            (admitted, false),
            "{token:?}"
        );
    }
}

/// Only the connection knows whether a certificate was presented.
#[tokio::test]
async fn with_any_a_certificate_or_a_token_will_do() {
    let authority = Authority::new("a");
    let issued = authority.issue_here();
    let more = [("client-ca.crt", &*authority.pem), ("client-tokens", ONE)];
    let of = |demand: &[(&'static str, &'static str)]| {
        make(&[&pair(&issued), &more[..], demand].concat(), None).unwrap()
    };
    let (all, any) = (of(&[]), of(&[("client-auth", " any\n")]));
    let needs = |clients: &Clients| clients.tls.as_ref().and_then(Server::asks);
    assert_eq!(needs(&all), Some(Need::Must));
    assert_eq!(needs(&any), Some(Need::May));
    let without = Caller::in_tls(([10, 0, 0, 1], 1).into(), None);
    let shown = all.tls.as_ref().unwrap().own_chain();
    let with = Caller::in_tls(([10, 0, 0, 1], 1).into(), Some(shown));
    assert_eq!(asked(&any, None, &with).0, Ok(()));
    assert_eq!(asked(&any, Some(ONE), &without).0, Ok(()));
    assert_eq!(asked(&any, None, &without).0, Err(refusals::NO_TOKEN));
    assert_eq!(asked(&all, None, &with).0, Err(refusals::NO_TOKEN));
    assert_eq!(asked(&all, Some(ONE), &with).0, Ok(()));
}

#[test]
fn a_certificate_of_the_future_is_refused_until_its_time_comes() {
    let authority = Authority::new("a");
    let soon = authority.issue_for(&["localhost"], 3600, 7200, &[]);
    let port = ClientsPort::new(false);
    let at = |time| port.make(&values(&pair(&soon)), None, time);
    let error = at(SystemTime::now()).unwrap_err().to_string();
    assert!(error.contains("is not valid before"), "{error}");
    at(SystemTime::now() + Duration::from_mins(90)).unwrap();
}
