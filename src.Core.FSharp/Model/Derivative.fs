/// Which derivatives are being taken on this thread. Gradients that are written by hand (`Fused`, `FusedAttention`, `Recompute`,
/// `HeadLoss`) can be taken once and no more; the same functions made of torch's own operators, any number of times.
namespace Hybrid

open System

[<AbstractClass; Sealed>]
type internal Derivative private () =
    [<ThreadStatic; DefaultValue>]
    static val mutable private composed: bool

    [<ThreadStatic; DefaultValue>]
    static val mutable private awaited: bool

    static let enter (composed: bool) : IDisposable =
        let before = struct (Derivative.composed, Derivative.awaited)
        Derivative.composed <- composed
        Derivative.awaited <- true

        { new IDisposable with
            member _.Dispose() =
                let struct (composed, awaited) = before
                Derivative.composed <- composed
                Derivative.awaited <- awaited
        }

    /// Whether functions are made of torch's own operators now.
    static member Composed = Derivative.composed

    /// Whether what is computed now is going to be differentiated, so that a derivative within it keeps its graph.
    static member Awaited = Derivative.awaited

    /// Until it is disposed, functions are made of torch's own operators, and derivatives keep their graphs.
    static member Take() : IDisposable = enter true

    /// Until it is disposed, derivatives keep their graphs.
    static member Await() : IDisposable = enter Derivative.composed

    /// What to say where a gradient written by hand would have to be differentiated.
    static member Once =
        "a gradient that is written by hand cannot be differentiated again; take derivatives of derivatives by the functions of Differentiate."
