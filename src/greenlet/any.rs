//! What `joinall` and `killall` take.

#![forbid(unsafe_code)]

use std::rc::Rc;
use std::sync::Arc;

use super::{Greenlet, Handle, ScopedGreenlet};
use crate::task::TaskRef;

/// What [`joinall`](crate::joinall) and [`killall`](crate::killall) take: a [`Greenlet`], a [`ScopedGreenlet`] or a
/// [`Handle`], or what points to one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no greenlet",
    note = "a list of `Greenlet`s, `ScopedGreenlet`s, `Handle`s, or of references to them, is what this takes"
)]
pub trait AnyGreenlet: sealed::AsTask {}

pub(super) mod sealed {
    use super::TaskRef;

    #[expect(private_interfaces, reason = "sealed: nobody else calls or implements it")]
    pub trait AsTask {
        fn as_task(&self) -> &TaskRef;
    }
}

/// Each with the way to the greenlet that it is, or points to.
macro_rules! any_greenlet {
    ($([$($generics:tt)*] $type:ty, $self:ident => $to:expr;)*) => {$(
        #[expect(private_interfaces, reason = "as for the trait")]
        impl<$($generics)*> sealed::AsTask for $type {
            fn as_task(&$self) -> &TaskRef {
                $to
            }
        }

        impl<$($generics)*> AnyGreenlet for $type {}
    )*};
}

any_greenlet! {
    [T] Greenlet<T>, self => self.task();
    [T] ScopedGreenlet<'_, T>, self => self.task();
    [] Handle, self => self.task();
    [G: AnyGreenlet + ?Sized] &G, self => (**self).as_task();
    [G: AnyGreenlet + ?Sized] Rc<G>, self => (**self).as_task();
    [G: AnyGreenlet + ?Sized] Arc<G>, self => (**self).as_task();
}
