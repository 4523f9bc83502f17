package pod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// volumes makes what a pod's container mounts. They stay as long as the pod, over
// restarts of its container.
func (n *Node) volumes(ctx context.Context, p *v1.Pod, c v1.Container, folder string) ([]mount, error) {
	sources := map[string]string{}
	for _, v := range p.Spec.Volumes {
		path, err := n.volume(ctx, p, v, filepath.Join(folder, "volumes", v.Name))
		if err != nil {
			return nil, fmt.Errorf("volume %s of pod %s: %w", v.Name, p.Name, err)
		}
		sources[v.Name] = path
	}
	var mounts []mount
	for _, m := range c.VolumeMounts {
		if m.SubPath != "" || m.SubPathExpr != "" {
			return nil, fmt.Errorf("volume %s of pod %s: subPath is not done here", m.Name, p.Name)
		}
		options := []string{"rbind", "rw"}
		if m.ReadOnly {
			options[1] = "ro"
		}
		mounts = append(mounts, mount{m.MountPath, "bind", sources[m.Name], options})
	}
	return mounts, nil
}

// volume gives the folder with a volume's files; those of the pod's own go to own.
func (n *Node) volume(ctx context.Context, p *v1.Pod, v v1.Volume, own string) (string, error) {
	switch s := v.VolumeSource; {
	case s.EmptyDir != nil:
		return own, errors.Join(os.MkdirAll(own, 0o777), os.Chmod(own, 0o777))
	case s.HostPath != nil:
		path := filepath.Join(n.o.Host, s.HostPath.Path)
		info, err := os.Stat(path)
		if err == nil && s.HostPath.Type != nil && *s.HostPath.Type == v1.HostPathDirectory && !info.IsDir() {
			err = fmt.Errorf("%s is no directory", path)
		}
		return path, err
	case s.NFS != nil:
		share := s.NFS.Server + ":" + s.NFS.Path
		if n.o.Shares[share] == "" {
			return "", fmt.Errorf("there is no share %s", share)
		}
		return n.o.Shares[share], nil
	case s.PersistentVolumeClaim != nil:
		return n.claimed(ctx, p.Namespace, s.PersistentVolumeClaim.ClaimName)
	case s.Projected != nil:
		if err := os.MkdirAll(own, 0o755); err != nil {
			return "", err
		}
		for _, source := range s.Projected.Sources {
			if err := n.project(ctx, p, source, own); err != nil {
				return "", err
			}
		}
		return own, nil
	case s.Secret != nil:
		return own, n.secret(ctx, p.Namespace, s.Secret.SecretName, s.Secret.Items, own)
	case s.ConfigMap != nil:
		return own, n.files(ctx, p.Namespace, s.ConfigMap.Name, nil, own)
	}
	return "", fmt.Errorf("it is of a kind that is not made here: %v", v.VolumeSource)
}

// claimed gives the folder of a claim that is bound to a PersistentVolume of this node.
func (n *Node) claimed(ctx context.Context, namespace, name string) (string, error) {
	claim, err := n.o.Client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	if claim.Spec.VolumeName == "" {
		return "", fmt.Errorf("claim %s is not bound", name)
	}
	pv, err := n.o.Client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	if pv.Spec.HostPath == nil {
		return "", fmt.Errorf("claim %s: PersistentVolume %s has no hostPath", name, pv.Name)
	}
	return filepath.Join(n.o.Host, pv.Spec.HostPath.Path), nil
}

// project writes one source of a projected volume, as the service account's is.
func (n *Node) project(ctx context.Context, p *v1.Pod, source v1.VolumeProjection, folder string) error {
	switch {
	case source.ServiceAccountToken != nil:
		token, err := n.token(ctx, p, source.ServiceAccountToken)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(folder, source.ServiceAccountToken.Path), []byte(token), 0o644)
	case source.ConfigMap != nil:
		return n.files(ctx, p.Namespace, source.ConfigMap.Name, source.ConfigMap.Items, folder)
	case source.Secret != nil:
		return n.secret(ctx, p.Namespace, source.Secret.Name, source.Secret.Items, folder)
	case source.DownwardAPI != nil:
		for _, item := range source.DownwardAPI.Items {
			value, err := field(p, item.FieldRef.FieldPath)
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(folder, item.Path), []byte(value), 0o644); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("a source of a kind that is not made here: %v", source)
}

// token asks for one of the pod's service account, bound to the pod, as the kubelet does.
func (n *Node) token(ctx context.Context, p *v1.Pod, s *v1.ServiceAccountTokenProjection) (string, error) {
	request := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{
		ExpirationSeconds: s.ExpirationSeconds,
		BoundObjectRef:    &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID},
	}}
	if s.Audience != "" {
		request.Spec.Audiences = []string{s.Audience}
	}
	answer, err := n.o.Client.CoreV1().ServiceAccounts(p.Namespace).CreateToken(ctx, p.Spec.ServiceAccountName, request, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return answer.Status.Token, nil
}

// files writes a ConfigMap's keys, or only some of them, as files.
func (n *Node) files(ctx context.Context, namespace, name string, items []v1.KeyToPath, folder string) error {
	m, err := n.o.Client.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	return writeKeys(m.Data, items, folder)
}

// secret is files for a Secret.
func (n *Node) secret(ctx context.Context, namespace, name string, items []v1.KeyToPath, folder string) error {
	s, err := n.o.Client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	data := map[string]string{}
	for key, value := range s.Data {
		data[key] = string(value)
	}
	return writeKeys(data, items, folder)
}

// writeKeys writes all of data, or only some of it, as files.
func writeKeys(data map[string]string, items []v1.KeyToPath, folder string) error {
	if len(items) == 0 {
		for key := range data {
			items = append(items, v1.KeyToPath{Key: key, Path: key})
		}
	}
	for _, item := range items {
		value, has := data[item.Key]
		if !has {
			return fmt.Errorf("there is no key %s", item.Key)
		}
		file := filepath.Join(folder, item.Path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(value), 0o644)); err != nil {
			return err
		}
	}
	return nil
}
