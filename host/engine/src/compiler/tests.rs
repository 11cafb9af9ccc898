//! The order of compiles, and which compile gives way to another.

use futures_util::FutureExt as _;

use super::*;

#[tokio::test]
async fn a_trial_gives_way_and_others_have_their_turns() {
    let engine = Engine::new().expect("guests run here");
    let component = Bytes::from_static(b"\0asm\x0d\0\x01\0");
    let (compiler, digest) = (Compiler::here(), Digest::of(&component));
    let limits = Limits::of(&Settings::default());
    let compile = |purpose| compiler.compile(&engine, None, digest, &component, purpose, limits);
    compile(Purpose::Trial).await.expect("nobody else is there");

    let turn = Arc::clone(&compiler.0.turn);
    let turn = turn.acquire_owned().await.expect("it is open");
    let mut serve = Box::pin(compile(Purpose::Serve));
    let mut trial = Box::pin(compile(Purpose::Trial));
    assert!(
        (&mut trial).now_or_never().is_none(),
        "the compilation must wait for its turn"
    );
    assert!(
        (&mut serve).now_or_never().is_none(),
        "the compilation must wait for its turn"
    );
    assert!(matches!(trial.await, Err(CompileError::GaveWay)));
    drop(turn);
    serve.await.expect("it had its turn");
    compile(Purpose::Trial).await.expect("nobody else is there");
}
