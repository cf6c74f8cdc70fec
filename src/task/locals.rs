//! Values that each task has for itself. See `crate::local` for the typed side.

#![forbid(unsafe_code)]

use std::any::Any;
use std::cell::RefCell;
use std::rc::Rc;

use super::Task;
use crate::coro::unwind;

/// The values of one task, by the number of their key.
#[derive(Default)]
pub(crate) struct Locals(RefCell<Vec<Option<LocalValue>>>);

/// One value.
#[derive(Clone)]
pub(crate) struct LocalValue {
    pub(crate) value: Rc<dyn Any>,
    /// Makes the value that a task starts with which this one spawns.
    pub(crate) inherit: Option<Inherit>,
}

pub(crate) type Inherit = fn(&dyn Any) -> Rc<dyn Any>;

/// How often values are dropped that destructors of values have made anew. std's number for its thread-locals.
const ROUNDS: usize = 5;

impl Task {
    /// The value with that number.
    pub(crate) fn get_local(&self, number: usize) -> Option<Rc<dyn Any>> {
        self.with_locals(|locals| Some(Rc::clone(&locals?.0.borrow().get(number)?.as_ref()?.value)))
    }

    /// Sets the value with that number; gives back the one before.
    pub(crate) fn set_local(&self, number: usize, local: LocalValue) -> Option<LocalValue> {
        let locals = self.local.locals.take().unwrap_or_default();
        let before = {
            let mut values = locals.0.borrow_mut();
            if values.len() <= number {
                values.resize_with(number + 1, || None);
            }
            values[number].replace(local)
        };
        self.local.locals.set(Some(locals));
        before
    }

    /// What a new task inherits from this one, which spawns it.
    #[inline]
    pub(crate) fn bequeath_locals(&self) -> Option<Box<Locals>> {
        if self.has_locals() { self.bequeath_slowly() } else { None }
    }

    #[cold]
    fn bequeath_slowly(&self) -> Option<Box<Locals>> {
        let inherited: Vec<_> = self.with_locals(|locals| {
            let values = locals.map(|locals| locals.0.borrow());
            let values = values.iter().flat_map(|values| values.iter().enumerate());
            values
                .filter_map(|(number, local)| Some((number, local.clone()?, local.as_ref()?.inherit?)))
                .collect()
        });
        let mut values: Vec<Option<LocalValue>> = Vec::new();
        for (number, local, inherit) in inherited {
            values.resize_with(number, || None);
            values.push(Some(LocalValue { value: inherit(&*local.value), ..local }));
        }
        (!values.is_empty()).then(|| Box::new(Locals(RefCell::new(values))))
    }

    /// The task is over: drops its values, the latest keys first. What panics there has nobody to panic to.
    #[inline]
    pub(crate) fn drop_locals(&self) {
        if self.has_locals() {
            self.drop_locals_slowly();
        }
    }

    #[cold]
    fn drop_locals_slowly(&self) {
        for _ in 0..ROUNDS {
            let Some(locals) = self.local.locals.take() else { return };
            for local in locals.0.into_inner().into_iter().rev() {
                let _ = unwind::catch(|| drop(local));
            }
        }
        // A destructor makes it anew each time.
        std::mem::forget(self.local.locals.take());
    }

    fn with_locals<R>(&self, f: impl FnOnce(Option<&Locals>) -> R) -> R {
        let locals = self.local.locals.take();
        let result = f(locals.as_deref());
        self.local.locals.set(locals);
        result
    }
}
