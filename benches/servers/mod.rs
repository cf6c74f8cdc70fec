use super::{Keys, Outcome};
pub(crate) fn echo(_: &Keys) -> Outcome { Err("later".into()) }
pub(crate) fn echo_mio(_: &Keys) -> Outcome { Err("later".into()) }
pub(crate) fn http(_: &Keys) -> Outcome { Err("later".into()) }
pub(crate) fn load(_: &Keys) -> Outcome { Err("later".into()) }
pub(crate) fn churn(_: &Keys) -> Outcome { Err("later".into()) }
