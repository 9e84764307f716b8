/// How the tokenizer of scenes learns: its rate, its loss and its gradients.
module Hybrid.Tests.SceneVqVaeTests

open System
open Expecto
open Hybrid
open Hybrid.Tests.ImageTokenizerSupport
open TorchSharp

let tests =
    let scene = smallScenes 1 16L

    /// Pictures of two flat halves, so that there is something to learn.
    let batch (seed: int) =
        let colours = uniform (Random.ofSeed (int64 seed) |> Random.named "halves") 0.0 1.0 [ 8L; 3L; 2L; 1L ]
        colours.repeat_interleave(8L, 2L).expand(8L, 3L, 16L, 16L).contiguous()

    let learning: Codebook.Learning = { Decay = 0.9; Revival = 0.05; Smoothing = 0.0 }

    testList
        "SceneVqVae"
        [
            testCase "the learning rate warms up and ends at a fiftieth" (fun () ->
                let recipe = SceneVqVae.quickRecipe
                let rate step = SceneVqVae.learningRate recipe step
                let last = int64 recipe.Steps
                Expect.floatClose Accuracy.high (rate 0L) (recipe.LearningRate / float recipe.WarmupSteps) "the first step"
                Expect.floatClose Accuracy.high (rate last) (recipe.LearningRate / 50.0) "the end"

                let falling =
                    Seq.pairwise (seq { int64 recipe.WarmupSteps .. last }) |> Seq.forall (fun (a, b) -> rate b < rate a)

                Expect.isTrue falling "it falls after the warm-up")

            testCase "steps on a batch lower its loss" (fun () ->
                use _ = torch.NewDisposeScope()
                let gradients = SceneVqVae.parameters scene
                let weights = start 5 (gradients @ SceneVqVae.codebook scene)

                let moved = dict [ for p in gradients -> p.Name, new Modules.Parameter((weights p.Name).clone()) ]

                let weights name =
                    match moved.TryGetValue name with
                    | true, parameter -> parameter :> torch.Tensor
                    | _ -> weights name

                use optimizer = torch.optim.Adam(moved.Values, 3e-3)
                let images = batch 1

                let losses =
                    [
                        for number in 0L .. 59L do
                            use _ = torch.NewDisposeScope()
                            let training = SceneVqVae.trainingLoss 0.25 scene weights images
                            optimizer.zero_grad ()
                            training.Loss.backward ()
                            optimizer.step () |> ignore
                            SceneVqVae.updateCodebook learning (Random.ofSeed 2L) number weights training
                            training.Reconstruction.item<float32>()
                    ]

                Expect.isLessThan (List.last losses) (0.3f * losses[1]) "the reconstruction is three times better"
                Expect.isTrue (losses |> List.forall Single.IsFinite) "every loss is finite")

            property "shapes, parts and gradients of the training loss" (fun (seed: int) ->
                use _ = torch.NewDisposeScope()
                let gradients = SceneVqVae.parameters scene
                let weights = start seed (gradients @ SceneVqVae.codebook scene)

                for parameter in gradients do
                    (weights parameter.Name).requires_grad_() |> ignore

                let live () = DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount
                let images = batch seed
                let before = live ()
                let training = SceneVqVae.trainingLoss 0.25 scene weights images
                let after = live ()
                SceneVqVae.updateCodebook learning (Random.ofSeed 2L) 0L weights training
                let afterUpdate = live ()
                training.Loss.backward ()
                let sum = training.Reconstruction.item<float32>() + 0.25f * training.Commitment.item<float32>()

                after = before + 5L
                && afterUpdate = after
                && training.Codes.shape = [| 8L; 4L; 4L |]
                && training.Vectors.shape = [| 128L; 6L |]
                && not training.Vectors.requires_grad
                && abs (training.Loss.item<float32>() - sum) < 1e-5f
                && gradients |> List.forall (fun p -> not (isNull (weights p.Name).grad))
                && isNull (weights "codebook.weight").grad)

            testCase "bfloat16 weights give nearly the same loss" (fun () ->
                use _ = torch.NewDisposeScope()
                let weights = start 5 (SceneVqVae.parameters scene @ SceneVqVae.codebook scene)
                let images = batch 1

                SceneVqVae.trainingLoss 0.25 scene weights images
                |> SceneVqVae.updateCodebook learning (Random.ofSeed 2L) 0L weights

                let half name =
                    if (name: string).StartsWith "codebook" then
                        weights name
                    else
                        (weights name).``to`` torch.bfloat16

                let full = SceneVqVae.trainingLoss 0.25 scene weights images
                let rounded = SceneVqVae.trainingLoss 0.25 scene half images
                Expect.equal rounded.Loss.dtype torch.ScalarType.Float32 "the loss is float32"
                let a, b = full.Reconstruction.item<float32>(), rounded.Reconstruction.item<float32>()
                Expect.isLessThan (abs (a - b) / a) 0.02f "within two per cent")
        ]
