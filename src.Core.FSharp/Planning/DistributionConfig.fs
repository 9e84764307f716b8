namespace Hybrid

open System.Text.Json.Nodes
open Hybrid.JsonForm

/// How the processes of a run share it; of no effect for one alone.
type Distribution =
    {
        /// What each process keeps a slice of: 0 nothing, 1 moments, 2 gradients too, 3 weights too
        Zero: int
        /// Gradients are summed over processes while the backward pass goes on
        Overlap: bool
        /// The longest message
        BucketMiB: int
        /// After so long without a sign of a process the others stop
        SilenceSeconds: float
        /// After so long that a process keeps the others waiting they stop
        TimeoutSeconds: float
    }

/// Reading and writing the part "distribution" of a configuration.
module DistributionConfig =

    /// What holds where a configuration says nothing.
    let usual: Distribution =
        { Zero = 0; Overlap = true; BucketMiB = 64; SilenceSeconds = 30.0; TimeoutSeconds = 600.0 }

    /// Reads the object `distribution`; every key may be left out.
    let internal read (json: JsonFields) : Distribution =
        let own = json.Object("distribution", true)

        let distribution =
            {
                Zero = own.Int("zero", 0, 3, usual.Zero)
                Overlap = own.Bool("overlap", usual.Overlap)
                BucketMiB = own.Int("bucketMiB", 1, 1024, usual.BucketMiB)
                SilenceSeconds = own.Float("silenceSeconds", 1.0, 86400.0, usual.SilenceSeconds)
                TimeoutSeconds = own.Float("timeoutSeconds", 1.0, 604800.0, usual.TimeoutSeconds)
            }

        own.Finish()
        distribution

    /// The object that `read` reads.
    let internal write (distribution: Distribution) : JsonObject =
        object
            [
                "zero", value distribution.Zero
                "overlap", value distribution.Overlap
                "bucketMiB", value distribution.BucketMiB
                "silenceSeconds", value distribution.SilenceSeconds
                "timeoutSeconds", value distribution.TimeoutSeconds
            ]
