/// Hybrid's own JSON form of a model's description.
namespace Hybrid

open System.Text.Json.Nodes
open Hybrid.JsonForm

/// Reading and writing a model's description in Hybrid's own JSON.
module HybridConfig =

    let private normName =
        function
        | LayerNorm -> "layer_norm"
        | GainLayerNorm -> "gain_only_layer_norm"
        | PlainLayerNorm -> "plain_layer_norm"
        | RmsNorm -> "rms_norm"

    let private positionName =
        function
        | Rotary -> "rotary"
        | InterleavedRotary -> "interleaved_rotary"
        | HeadRotary -> "head_rotary"
        | NoPosition -> "none"
        | LearnedPosition -> "learned"

    let private feedForwardName =
        function
        | SwiGlu -> "swiglu"
        | GeGlu -> "geglu"
        | Gelu -> "gelu"
        | GeluTanh -> "gelu_tanh"
        | Relu -> "relu"

    let private named (name: 'a -> string) (cases: 'a list) = cases |> List.map (fun case -> name case, case)

    let private scalingToJson (scaling: RotaryScaling) : JsonNode | null =
        let json (kind: string) (fields: (string * (JsonNode | null)) list) : JsonNode | null =
            object (("kind", value kind) :: fields)

        match scaling with
        | NoScaling -> null
        | LinearScaling factor -> json "linear" [ "factor", value factor ]
        | DynamicScaling factor -> json "dynamic" [ "factor", value factor ]
        | Llama3Scaling s ->
            json
                "llama3"
                [
                    "factor", value s.Factor
                    "lowFrequencyFactor", value s.LowFrequencyFactor
                    "highFrequencyFactor", value s.HighFrequencyFactor
                    "originalPositions", value s.OriginalPositions
                ]
        | YarnScaling s ->
            json
                "yarn"
                [
                    "factor", value s.Factor
                    "originalPositions", value s.OriginalPositions
                    "betaFast", value s.BetaFast
                    "betaSlow", value s.BetaSlow
                    "attentionFactor", value s.AttentionFactor
                    "truncate", value s.Truncate
                ]

    let private scalingOfJson (parent: JsonFields) : RotaryScaling =
        parent.Ignore [ "rotaryScaling" ]

        if not (parent.Has "rotaryScaling") then
            NoScaling
        else
            let json = parent.Object "rotaryScaling"
            let factor () = json.Float("factor", 1e-30, 1e30)
            let original () = json.Int("originalPositions", 1, 1 <<< 28)

            let scaling =
                match json.Choice("kind", [ for kind in [ "linear"; "dynamic"; "llama3"; "yarn" ] -> kind, kind ]) with
                | "linear" -> LinearScaling(factor ())
                | "dynamic" -> DynamicScaling(factor ())
                | "llama3" ->
                    Llama3Scaling
                        {
                            Factor = factor ()
                            LowFrequencyFactor = json.Float("lowFrequencyFactor", 1e-30, 1e30)
                            HighFrequencyFactor = json.Float("highFrequencyFactor", 1e-30, 1e30)
                            OriginalPositions = original ()
                        }
                | _ ->
                    YarnScaling
                        {
                            Factor = factor ()
                            OriginalPositions = original ()
                            BetaFast = json.Float("betaFast", 1e-30, 1e30)
                            BetaSlow = json.Float("betaSlow", 1e-30, 1e30)
                            AttentionFactor = json.Float("attentionFactor", 0.0, 1e30)
                            Truncate = json.Bool "truncate"
                        }

            json.Finish()
            scaling

    /// The form: every field by its own name. `read` reads it back.
    let write (config: ModelConfig) : JsonObject =
        object
            [
                "width", value config.Width
                "layers", value config.Layers
                "heads", value config.Heads
                "keyValueHeads", value config.KeyValueHeads
                "headWidth", value config.HeadWidth
                "feedForwardWidth", value config.FeedForwardWidth
                "rows", value config.Rows
                "extendedAt", list config.ExtendedAt
                "positions", value config.Positions
                "norm", value (normName config.Norm)
                "normEpsilon", value config.NormEpsilon
                "qkNorm", value config.QkNorm
                "postEmbedNorm", value config.PostEmbedNorm
                "position", value (positionName config.Position)
                "rotaryBase", value config.RotaryBase
                "rotaryWidth", value config.RotaryWidth
                "rotaryScaling", scalingToJson config.RotaryScaling
                "window", value config.Window
                "feedForward", value (feedForwardName config.FeedForward)
                "parallelResidual", value config.ParallelResidual
                "qkvBias", value config.QkvBias
                "outBias", value config.OutBias
                "feedForwardBias", value config.FeedForwardBias
                "tied", value config.Tied
            ]

    /// Reads the object that `write` makes.
    let read (json: JsonFields) : ModelConfig =
        let width = json.Int("width", 1, ModelConfig.maximum)
        let headWidth = json.Int("headWidth", 1, ModelConfig.maximum)

        let config =
            {
                Width = width
                Layers = json.Int("layers", 1, 1024)
                Heads = json.Int("heads", 1, 1024)
                KeyValueHeads = json.Int("keyValueHeads", 1, 1024)
                HeadWidth = headWidth
                FeedForwardWidth = json.Int("feedForwardWidth", 1, ModelConfig.maximum)
                Rows = json.Int("rows", 1, 1 <<< 28)
                ExtendedAt = json.Ints("extendedAt", 1, 1 <<< 28)
                Positions = json.Int("positions", 1, 1 <<< 28)
                Norm = json.Choice("norm", named normName [ LayerNorm; GainLayerNorm; PlainLayerNorm; RmsNorm ])
                NormEpsilon = json.Float("normEpsilon", 0.0, 1.0)
                QkNorm = json.Bool "qkNorm"
                PostEmbedNorm = json.Bool "postEmbedNorm"
                Position =
                    json.Choice(
                        "position",
                        named positionName [ Rotary; InterleavedRotary; HeadRotary; NoPosition; LearnedPosition ]
                    )
                RotaryBase = json.Float("rotaryBase", 1.0, 1e12)
                // Checkpoints of earlier versions lack the keys that have defaults here.
                RotaryWidth = json.Int("rotaryWidth", 0, ModelConfig.maximum, headWidth)
                RotaryScaling = scalingOfJson json
                Window = json.Int("window", 0, 1 <<< 28, 0)
                FeedForward = json.Choice("feedForward", named feedForwardName [ SwiGlu; GeGlu; Gelu; GeluTanh; Relu ])
                ParallelResidual = json.Bool("parallelResidual", false)
                QkvBias = json.Bool("qkvBias", false)
                OutBias = json.Bool("outBias", false)
                FeedForwardBias = json.Bool("feedForwardBias", false)
                Tied = json.Bool "tied"
            }

        json.Finish()
        ModelConfig.checkedAt json "width" config
