/// From the words of `hybrid plan` to what is to be predicted.
module internal Hybrid.PlanTable

open Argu
open Hybrid.Arguments

/// The command that was given.
let command (given: ParseResults<PlanArguments>) : ICommand =
    {
        PlanCommand.Gpus = given.GetResult <@ PlanArguments.Gpus @>
        GpuMemory = given.GetResult <@ PlanArguments.Gpu_Memory @>
        Link = given.GetResult <@ PlanArguments.Link @>
        NodeGpus = given.GetResult(<@ PlanArguments.Node_Gpus @>, defaultValue = 8)
        NodeLink = given.TryGetResult <@ PlanArguments.Node_Link @> |> Option.toNullable
        Latency = given.GetResult(<@ PlanArguments.Latency @>, defaultValue = 10.0)
        Peak = given.TryGetResult <@ PlanArguments.Peak @> |> Option.toNullable
        Share = given.TryGetResult <@ PlanArguments.Share @> |> Option.toNullable
        Measured = given.TryGetResult <@ PlanArguments.Measured @> |> Option.toObj
        Config = given.TryGetResult <@ PlanArguments.Config @> |> Option.toObj
        ModelConfig = given.TryGetResult <@ PlanArguments.Model_Config @> |> Option.toObj
        Size = given.TryGetResult <@ PlanArguments.Size @> |> Option.toObj
        Sequence = given.TryGetResult <@ PlanArguments.Sequence @> |> Option.toNullable
        TokensPerStep = given.TryGetResult <@ PlanArguments.Tokens_Per_Step @> |> Option.toNullable
        Tokens = given.TryGetResult <@ PlanArguments.Tokens @> |> Option.toNullable
        Precision = given.TryGetResult <@ PlanArguments.Precision @> |> Option.toObj
        Gradients = given.TryGetResult <@ PlanArguments.Gradients @> |> Option.toObj
        CheckpointLink = given.TryGetResult <@ PlanArguments.Checkpoint_Link @> |> Option.toNullable
        Json = given.Contains <@ PlanArguments.Json @>
    }
