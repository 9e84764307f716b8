module Hybrid.Tests.Main

open System
open System.IO
open Expecto
open TorchSharp

let private all =
    testList
        "Hybrid"
        [
            AlignmentTests.tests
            AlignCommandTests.tests
            ProbeTests.tests
            BadInputTests.tests
            BenchTests.tests
            CheckpointingTests.tests
            BatchFeedTests.tests
            CommandParsingTests.tests
            CommandParsingMoreTests.tests
            CommandLineTests.tests
            ConfigTests.tests
            ConvertTests.tests
            ConvertRefusalTests.tests
            DecoderTests.tests
            CSharpPageTests.tests
            DocsTests.tests
            DoorTests.tests
            ScriptTests.tests
            DiskTests.tests
            ResumeTests.tests
            SavingTests.tests
            SpikeTests.tests
            ExtensionTests.tests
            FamilyTests.tests
            FusedTests.tests
            FuzzTests.tests
            GoldenTests.tests
            GpuCheckTests.tests
            HostCommandTests.tests
            HostTests.tests
            ImageQualityTests.tests
            ImageCommandTests.tests
            ImageTilesTests.tests
            ImageTokenizerGoldenTests.tests
            CodebookTests.tests
            ImageTokenizerTests.tests
            SceneVqVaeTests.tests
            ImageTrainConfigTests.tests
            ImageTrainJobTests.tests
            TrainingPicturesTests.tests
            ImageTrainingTests.tests
            JsonTests.tests
            KernelTests.tests
            LayersTests.tests
            LikelihoodTests.tests
            LoadMemoryTests.tests
            LossTests.tests
            MemoryTests.tests
            NativeTests.tests
            NpyTests.tests
            PaddingTests.tests
            PairSourceTests.tests
            ParametersTests.tests
            PickleTests.tests
            PictureFormatTests.tests
            PictureTests.tests
            PrecisionTests.tests
            PrepareHostileTests.tests
            PrepareInputTests.tests
            PrepareTableTests.tests
            PrepareStopTests.tests
            PrepareTests.tests
            ProgressTests.tests
            PublicSurfaceTests.tests
            RandomTests.tests
            ReportTests.tests
            ReportCurvesTests.tests
            ReportFilesTests.tests
            RunReportTests.tests
            RunWatchTests.tests
            SafeTensorsTests.tests
            SamplerTests.tests
            DecodingTests.tests
            SamplingTests.tests
            HostDrawTests.tests
            PlanCommandTests.tests
            ScalingTests.tests
            ScheduleTests.tests
            SequenceTests.tests
            SoakTests.tests
            ShapeTests.tests
            ShardTests.tests
            StatisticsTests.tests
            FidelityTests.tests
            FidCommandTests.tests
            FidExtractionTests.tests
            GenerateCommandTests.tests
            StepTests.tests
            StudyPlanTests.tests
            StudyVerdictTests.tests
            StudyTests.tests
            TeamTests.tests
            SharingTests.tests
            ExchangeTests.tests
            LifelineTests.tests
            NcclTests.tests
            RanksTests.tests
            TensorFilesTests.tests
            TokenizerFilesTests.tests
            TokenizeCommandTests.tests
            TokenizerReferenceTests.tests
            TokenizerTests.tests
            TorchFileTests.tests
            TorchWriterTests.tests
            TrainConfigTests.tests
            TrainSettingsTests.tests
            TrainableTests.tests
            VocabularyTests.tests
            VqGanTests.tests
            WorldSceneTests.tests
            WorldTests.tests
            DifferentiateTests.tests
            LifetimeTests.tests
            DetailsCommandTests.tests
            LossByPlaceTests.tests
            CodeUseTests.tests
            GradientCosineTests.tests
            WeightDistanceTests.tests
            AttentionMassTests.tests
        ]

[<EntryPoint>]
let main arguments =
    // Tests run in parallel, one per core; torch's own threads would only contend with them.
    torch.set_num_threads 1
    let summary: Impl.TestRunSummary option ref = ref None

    let handler = CLIArguments.Append_Summary_Handler(SummaryHandler.SummaryHandler(fun s -> summary.Value <- Some s))

    let code = runTestsWithCLIArgs [ handler; CLIArguments.No_Spinner ] arguments all

    match summary.Value with
    | Some s ->
        // The last line, for people and for scripts; written past Expecto's own writer, which ends with a colour code and pads lines.
        use out = new StreamWriter(Console.OpenStandardOutput())
        out.WriteLine()
        out.WriteLine $"{s.passed.Length} passed, {s.failed.Length + s.errored.Length} failed, {s.ignored.Length} skipped"
    | None -> ()

    code
