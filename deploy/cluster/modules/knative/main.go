// Command knative runs the controllers and the autoscaler of Knative Serving in one process, for tests: the reconcilers of the
// programs `controller` and `autoscaler` without their servers, so it listens on no address. There are no webhooks: objects must
// have the defaults that those would add.
package main

import (
	"context"
	"errors"
	"log"

	"knative.dev/pkg/client/injection/kube/client"
	pods "knative.dev/pkg/client/injection/kube/informers/core/v1/pod/filtered"
	filtered "knative.dev/pkg/client/injection/kube/informers/factory/filtered"
	configmap "knative.dev/pkg/configmap/informer"
	"knative.dev/pkg/controller"
	"knative.dev/pkg/injection"
	"knative.dev/pkg/logging"
	"knative.dev/pkg/signals"
	"knative.dev/pkg/system"

	"go.uber.org/zap"
	"knative.dev/serving/pkg/apis/autoscaling/v1alpha1"
	"knative.dev/serving/pkg/apis/serving"
	"knative.dev/serving/pkg/autoscaler/metrics"
	"knative.dev/serving/pkg/autoscaler/scaling"
	"knative.dev/serving/pkg/reconciler/autoscaling/kpa"
	"knative.dev/serving/pkg/reconciler/configuration"
	"knative.dev/serving/pkg/reconciler/labeler"
	"knative.dev/serving/pkg/reconciler/metric"
	"knative.dev/serving/pkg/reconciler/revision"
	"knative.dev/serving/pkg/reconciler/route"
	"knative.dev/serving/pkg/reconciler/serverlessservice"
	"knative.dev/serving/pkg/reconciler/service"
	"knative.dev/serving/pkg/resources"

	netcfg "knative.dev/networking/pkg/config"
)

var errUnlabelled = errors.New("the object names no revision")

func main() {
	ctx := signals.NewContext()
	// Before the clients: it reads the flag -kubeconfig.
	config := injection.ParseAndGetRESTConfigOrDie()
	config.QPS, config.Burst = 200, 400
	logger, err := zap.NewProduction()
	if err != nil {
		log.Fatal(err)
	}
	ctx = logging.WithLogger(ctx, logger.Sugar())
	ctx = filtered.WithSelectors(ctx, serving.RevisionUID)
	ctx, informers := injection.Default.SetupInformers(ctx, config)
	watcher := configmap.NewInformedWatcher(client.Get(ctx), system.Namespace())

	collector := metrics.NewMetricCollector(scrapers(ctx), logger.Sugar())
	multi := scaling.NewMultiScaler(ctx.Done(), scalers(ctx, collector), logger.Sugar())
	controllers := []*controller.Impl{
		kpa.NewController(ctx, watcher, multi),
		metric.NewController(ctx, watcher, collector),
	}
	for _, create := range []injection.ControllerConstructor{
		configuration.NewController,
		labeler.NewController,
		revision.NewController,
		route.NewController,
		serverlessservice.NewController,
		service.NewController,
	} {
		controllers = append(controllers, create(ctx, watcher))
	}
	if err := watcher.Start(ctx.Done()); err != nil {
		log.Fatal("configuration: ", err)
	}
	if err := controller.StartInformers(ctx.Done(), informers...); err != nil {
		log.Fatal("informers: ", err)
	}
	if err := controller.StartAll(ctx, controllers...); err != nil {
		log.Fatal("controllers: ", err)
	}
}

// scrapers reads the queue-proxies of a revision.
func scrapers(ctx context.Context) metrics.StatsScraperFactory {
	lister := pods.Get(ctx, serving.RevisionUID).Lister()
	return func(of *v1alpha1.Metric, logger *zap.SugaredLogger) (metrics.StatsScraper, error) {
		name := of.Labels[serving.RevisionLabelKey]
		if name == "" {
			return nil, errUnlabelled
		}
		if of.Spec.ScrapeTarget == "" {
			return nil, nil
		}
		accessor := resources.NewPodAccessor(lister, of.Namespace, name)
		return metrics.NewStatsScraper(of, name, accessor, false, netcfg.MeshCompatibilityModeAuto, logger), nil
	}
}

// scalers decides the number of pods of a revision.
func scalers(ctx context.Context, source metrics.MetricClient) scaling.UniScalerFactory {
	lister := pods.Get(ctx, serving.RevisionUID).Lister()
	return func(decider *scaling.Decider) (scaling.UniScaler, error) {
		name := decider.Labels[serving.RevisionLabelKey]
		if name == "" {
			return nil, errUnlabelled
		}
		accessor := resources.NewPodAccessor(lister, decider.Namespace, name)
		return scaling.New(ctx, decider.Namespace, decider.Name, source, accessor, &decider.Spec), nil
	}
}
